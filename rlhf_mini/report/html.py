"""HTML in which every text is escaped, and figures as inline SVG."""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from io import StringIO

from rlhf_mini.plots.backend import default_settings, matplotlib


class Html(str):
    """Markup made by this module; any other string is text, which `tag` and `join` escape."""


def tag(name: str, *children: object, **attributes: str) -> Html:
    """An element around its children; `class_` and `aria_label` are written `class` and `aria-label`."""
    pairs = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
                      for key, value in attributes.items())
    return Html(f"<{name}{pairs}>{join(*children)}</{name}>")


def join(*parts: object) -> Html:
    """The parts in a row; text is escaped, markup is not."""
    return Html("".join(part if isinstance(part, Html) else escape(str(part)) for part in parts))


def inline_svg(figure: matplotlib.figure.Figure, name: str, description: str) -> Html:
    """A figure as an <svg> element that loads nothing; `name` makes its ids different from other figures' ids."""
    drawn = StringIO()
    # Text stays text, so that it can be searched and read aloud. With a salt, the same run makes the same file.
    with default_settings({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(drawn, format="svg", transparent=True)
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg"):]  # no XML declaration, no DTD
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")  # HTML needs no namespaces
    svg = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
                 rf'<svg \1 role="img" aria-label="{escape(description)}">', svg, count=1)
    return Html(svg)


def document(title: str, style: str, script: str, *body: object) -> Html:
    """A whole HTML page in one file, which lets the browser load nothing and run nothing but this script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = join(Html('<meta charset="utf-8">'),
                Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
                Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
                Html('<meta name="color-scheme" content="light dark">'),
                tag("title", title), Html(f"<style>\n{style}</style>"))
    return Html(f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n'
                f'<body>{join(*body)}<script>{script}</script></body>\n</html>\n')
