"""Reads a page of HTML without a browser."""

import html.parser

VOID = {"meta", "link", "img", "input", "br"}


class Page(html.parser.HTMLParser):
    """Elements (tag, attributes) in order, and their text; scripts are kept apart."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text()
        self.elements, self.texts, self.scripts, self.styles = [], [], [], []
        self._open = []
        self.feed(self.source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("script", "style"):
            self._kept(tag).append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        tag = self._open[-1] if self._open else ""
        if tag in ("script", "style"):
            self._kept(tag)[-1] += data
        elif data.strip():
            self.texts.append(" ".join(data.split()))

    def _kept(self, tag):
        return self.scripts if tag == "script" else self.styles

    def find(self, tag):
        """The attributes of all elements of a tag."""
        return [attrs for name, attrs in self.elements if name == tag]
