from html.parser import HTMLParser


class Nested(HTMLParser):
    """Checks that elements nest; `open` are those around what is being read. `VOID` elements have no end."""

    VOID = ("meta", "br")

    def __init__(self, html):
        super().__init__()
        self.open = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
