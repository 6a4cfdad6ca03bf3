"""What the readers of a page have already: a function of the page's namespace for each."""

READERS = {}
