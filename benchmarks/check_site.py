"""Is the site good to look at and to use: every page in a real browser, at desktop and phone width.

    mkdocs build --strict -d /tmp/site
    python benchmarks/check_site.py /tmp/site [--pictures FOLDER] [--only how-to]

Each page is opened in Chromium. Reported are what axe-core finds (headings, contrast, alt texts, landmarks, names of
links), requests that fail, errors of scripts, and pages that are wider than the window. `--pictures` keeps a picture of
each page at both widths. It needs `pip install playwright axe-playwright-python`, and Chromium (`--chromium PATH`).
The exit status is 1 where anything is found.
"""

from __future__ import annotations

import argparse
import shutil
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from tqdm import tqdm

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 — the base class's name
        pass


def pages_of(site: Path, only: str) -> list[str]:
    found = sorted(str(page.parent.relative_to(site)) for page in site.rglob("index.html"))
    return [page for page in found if only in page]


def look(page: Any, address: str, picture: Path | None) -> list[str]:
    """What is wrong with a page in a window that is open."""
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on("response", lambda got: wrong.append(f"{got.status}: {got.url}") if got.status >= 400 else None)
    page.goto(address, wait_until="networkidle")
    for found in Axe().run(page).response["violations"]:
        places = Counter(" ".join(node["html"].split())[:110] for node in found["nodes"])
        wrong += [f"{found['id']} ({found['impact']}): {html} × {count}" for html, count in places.most_common(3)]
    wide, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    if wide > window:
        wrong.append(f"{wide} pixels wide in a window of {window}")
    if picture:
        page.screenshot(path=picture, full_page=True)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="the folder of mkdocs build")
    parser.add_argument("--pictures", type=Path, help="keep a picture of each page here")
    parser.add_argument("--only", default="", help="pages whose address holds this text")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser; by default that of the path")
    options = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(options.site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    pages, count = pages_of(options.site, options.only), 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        for name in tqdm(pages, "pages", dynamic_ncols=True):
            for width, (across, down) in WIDTHS.items():
                page = browser.new_page(viewport={"width": across, "height": down})
                picture = options.pictures and options.pictures / f"{name.replace('/', '-')}-{width}.png"
                for line in look(page, f"http://127.0.0.1:{server.server_port}/{name}/", picture):
                    count += 1
                    tqdm.write(f"{name} ({width}): {line}")
                page.close()
        browser.close()
    print(f"{len(pages)} pages at {len(WIDTHS)} widths: {count or 'nothing'} found")
    raise SystemExit(bool(count))


if __name__ == "__main__":
    main()
