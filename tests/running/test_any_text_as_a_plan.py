"""Any text at all as the JSON of a plan is read to the letter, or refused with a ValueError."""

import json
import re
import sys

import pytest
from conftest import SCHEDULES
from hypothesis import given
from hypothesis import strategies as st

from pndm_solvers import DDIMSolver, DDPMSolver, Plan, PNDMSolver

TEXTS = [
    DDIMSolver(SCHEDULES["linear"]).plan(1).to_json(),
    DDIMSolver(SCHEDULES["rectified_flow"]).plan(2).to_json(indent=1),
    DDPMSolver(SCHEDULES["linear"]).plan(3, spacing="leading").to_json(),
    PNDMSolver(SCHEDULES["vp"], 2).plan(2).to_json(),
]
KEY = re.compile(r'"(\w+)":')
KEYS = sorted(set(KEY.findall(TEXTS[0])))
CODECS = ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")

HUGE = [2**53 + 1, 10**25, 10**400, 5e-324, -0.0, 1.7976931348623157e308, float("inf"), float("-inf"), float("nan")]
NUMBERS = st.one_of(st.integers(-2, 3), st.floats(), st.sampled_from(HUGE))
WORDS = st.one_of(st.sampled_from([*KEYS, "pndm_solvers.plan/2", "1", "1e3", "NaN", "ε", "\ud800", "\0"]), st.text())
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=10,
)

# What a parser must not do, by the names of Python's audit events.
FORBIDDEN = ("exec", "compile", "import", "open", "os.", "pickle.", "marshal.", "subprocess.", "socket.", "ctypes.")
watching, done = False, []
sys.addaudithook(lambda event, _: done.append(event) if watching and event.startswith(FORBIDDEN) else None)
for codec in CODECS:
    "".encode(codec)  # Python imports each when it is first used


def strictly(text):
    """The values of a text by Python's own parser. It fails where JSON gives the text no meaning, or two."""

    def no_key_twice(pairs):
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    return json.loads(text, object_pairs_hook=no_key_twice, parse_constant=pytest.fail)


def equal(read, written):
    """Whether two documents are equal: their numbers as doubles, all else in kind and value."""
    if type(written) in (int, float):
        return type(read) in (int, float) and read == float(written)
    if isinstance(written, dict):
        keys = read.keys() if isinstance(read, dict) else None
        return keys == written.keys() and all(equal(read[key], written[key]) for key in written)
    if isinstance(written, list):
        return isinstance(read, list) and len(read) == len(written) and all(map(equal, read, written))
    return type(read) is type(written) and read == written


def accepted(text):
    """Whether the text is read. The test fails where it is not read to the letter, or raises another error."""
    global watching
    done.clear()
    watching = True
    try:
        plan = Plan.from_json(text)
    except ValueError:
        return False
    finally:
        watching = False
        assert not done
    assert equal(json.loads(plan.to_json()), strictly(text))
    return True


def places(document):
    """(container, key) of each value in a document."""
    if isinstance(document, dict | list):
        for key in document if isinstance(document, dict) else range(len(document)):
            yield document, key
            yield from places(document[key])


def test_a_written_plan_is_read_in_every_encoding_of_json():
    for text in TEXTS:
        assert accepted(text)
        assert all(accepted(text.encode(codec)) for codec in CODECS)
        assert accepted(bytearray(text, "utf-8"))


@given(st.one_of(st.text(), st.binary(), VALUES.map(json.dumps), VALUES))
def test_anything_else_is_refused(text):
    assert not accepted(text)


@given(st.fixed_dictionaries(dict.fromkeys(json.loads(TEXTS[0]), VALUES)), st.sets(st.sampled_from(KEYS)))
def test_a_document_with_some_parts_of_a_plan(document, good):
    """Some are whole plans, with any name and truth value."""
    plan = json.loads(TEXTS[0])
    accepted(json.dumps(document | {key: plan[key] for key in good & plan.keys()}))


@given(st.sampled_from(TEXTS), st.data())
def test_one_value_put_in_left_out_or_in_anothers_place(text, data):
    document = json.loads(text)
    container, key = data.draw(st.sampled_from(list(places(document))))
    match data.draw(st.sampled_from(["change", "leave out", "put in", "swap"])):
        case "change":
            container[key] = data.draw(VALUES)
        case "leave out":
            del container[key]
        case "put in" if isinstance(container, list):
            container.insert(key, data.draw(VALUES))
        case "put in":
            container[data.draw(WORDS)] = data.draw(VALUES)
        case "swap":
            other, place = data.draw(st.sampled_from(list(places(json.loads(text)))))
            container[key] = other[place]
    accepted(json.dumps(document))


@given(st.sampled_from(TEXTS), st.data())
def test_a_key_twice_is_refused(text, data):
    """Python's parser would take the last of the two values."""
    key = data.draw(st.sampled_from(list(KEY.finditer(text))))
    value = data.draw(VALUES)
    assert not accepted(f"{text[: key.start()]}{key[0]} {json.dumps(value)}, {text[key.start() :]}")


@given(st.sampled_from(TEXTS), st.data())
def test_a_text_with_a_part_cut_out_doubled_or_overwritten(text, data):
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    part = data.draw(
        st.one_of(st.just(""), st.just(text[begin:end] * 2), st.text('[]{}",:-+.eE0123456789 ', max_size=6))
    )
    changed = text[:begin] + part + text[end:]
    accepted(changed)
    accepted(changed.encode("utf-8"))


@given(st.sampled_from(TEXTS), st.sampled_from(CODECS), st.data())
def test_a_file_with_bytes_altered(text, codec, data):
    raw = bytearray(text.encode(codec))
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=3)):
        raw[at] = byte
    accepted(bytes(raw))


def with_in_each_place(value, *kinds):
    """The first text, with the JSON `value` in the place of each value of these kinds in turn."""
    for i, (parent, name) in enumerate(places(json.loads(TEXTS[0]))):
        if type(parent[name]) in kinds:
            document = json.loads(TEXTS[0])
            parent, name = list(places(document))[i]
            parent[name] = "@"
            yield json.dumps(document).replace('"@"', value)


@pytest.mark.parametrize("depth", [10, 900, 1000, 100_000])
def test_what_is_nested_too_deep_is_refused(depth):
    for opening in ("[", '{"rows":', '{"format":"pndm_solvers.plan/2","end":', '[{"a":', "[[],", '"\\'):
        assert not accepted(opening * depth)
    for text in with_in_each_place("[" * depth + "]" * depth, str, bool, int, float, list, dict):
        assert not accepted(text)


NO_NUMBER = ["NaN", "-Infinity", "-1e400", "1" + 400 * "0", "1" + 5000 * "0", '"1"', '"true"', "null", "[1.0]", "{}"]


def test_nothing_is_taken_for_a_value_of_another_kind():
    for kinds, others in (
        ([int, float], [*NO_NUMBER, "true"]),
        ([bool], [*NO_NUMBER, "0", "1", "1.0"]),
        ([str], [*NO_NUMBER[:5], "null", "[]", "{}", "0", "false"]),
        ([list], [*NO_NUMBER, '""', "0", "false"]),
        ([dict], [*NO_NUMBER, '""', "[]", "0", "false"]),
    ):
        for other in others:
            assert not any(map(accepted, with_in_each_place(other, *kinds))), (kinds, other)


def test_the_error_names_the_fault_and_the_remedy():
    twice, huge = TEXTS[0].replace('"t"', '"t": 1, "t"', 1), TEXTS[0].replace("-1.0", "1" + 400 * "0")
    for text in (b"\xff\xfe\x00", "[" * 100_000, None, twice, huge):
        with pytest.raises(ValueError, match=r"^not the JSON of a plan: \w+\(.*; write one with Plan.to_json\(\)$"):
            Plan.from_json(text)


def test_a_long_plan_of_integers_is_one_of_doubles():
    document = json.loads(TEXTS[0])
    document["rows"] = [document["rows"][0] | {"t": k, "states": [[k, 1]], "noise": 1e-320} for k in range(1000)]
    text = json.dumps(document)
    assert accepted(text)
    assert all(type(row.t) is type(row.states[0][1]) is float for row in Plan.from_json(text).rows)
