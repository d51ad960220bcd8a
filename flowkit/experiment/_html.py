"""The pieces of a page: everything inline, everything escaped."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --paper: #ffffff; --ink: #1d232b; --soft: #5c6773; --line: #e1e5ea;
  --accent: #0072b2; --good: #00795a; --bad: #b04a00; --code: #f3f5f8; }
@media (prefers-color-scheme: dark) { :root { --page: #101418; --paper: #181d23; --ink: #e6eaef; --soft: #99a4b0; --line: #2b323a;
  --accent: #5db4e8; --good: #3fc59b; --bad: #f09a55; --code: #12161b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
  "Noto Sans", "Liberation Sans", Arial, sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1060px; margin: 0 auto; padding: 44px 24px 64px; }
header p { margin: 0; }
.kicker { color: var(--accent); font-size: 13px; font-weight: 600; letter-spacing: .08em; text-transform: uppercase; }
h1 { font-size: 38px; line-height: 1.15; letter-spacing: -.02em; margin: 4px 0 10px; overflow-wrap: anywhere; }
.lead { font-size: 18px; max-width: 46em; }
.meta { color: var(--soft); font-size: 13.5px; margin-top: 10px !important; overflow-wrap: anywhere; }
h2 { font-size: 21px; letter-spacing: -.01em; margin: 0 0 4px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 24px 26px; margin-top: 22px; }
section > p { margin: 0 0 16px; color: var(--soft); max-width: 52em; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(176px, 1fr)); gap: 14px; margin-top: 28px; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 15px 18px 14px; }
.card .label { color: var(--soft); font-size: 13px; }
.card .value { font-size: 27px; font-weight: 650; letter-spacing: -.02em; line-height: 1.25; font-variant-numeric: tabular-nums; }
.card .value small { font-size: 14px; font-weight: 500; letter-spacing: 0; color: var(--soft); margin-left: .35em; white-space: nowrap; }
.card .note { color: var(--soft); font-size: 13px; line-height: 1.4; margin-top: 3px; }
.good { color: var(--good); } .bad { color: var(--bad); }
figure { margin: 0; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; background: #fff; border-radius: 8px; }
.pair { display: grid; grid-template-columns: minmax(0, 1.75fr) minmax(0, 1fr); gap: 22px; align-items: start; }
.pair p { margin: 0 0 12px; color: var(--soft); }
.pair h3 { font-size: 16px; margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 15px; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: 13px; }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: baseline; }
tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.says { color: var(--soft); font-size: 14px; padding-left: 10px; }
pre { margin: 12px 0 0; padding: 14px 16px; background: var(--code); border: 1px solid var(--line); border-radius: 8px; overflow-x: auto;
  font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", "DejaVu Sans Mono", monospace; }
pre .key { color: var(--accent); }
footer { color: var(--soft); font-size: 13px; margin-top: 26px; }
@media (max-width: 760px) { main { padding: 26px 14px 40px; } h1 { font-size: 30px; } .pair { grid-template-columns: minmax(0, 1fr); }
  section { padding: 18px 16px; } td.says, th.says { display: none; } }
@media print { :root { --page: #fff; --paper: #fff; --ink: #000; --soft: #444; --line: #ccc; --code: #f6f6f6; }
  body { font-size: 11pt; } main { max-width: none; padding: 0; } section, .card, figure, pre { break-inside: avoid; } h2 { break-after: avoid; }
  pre { white-space: pre-wrap; } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole document; ``body`` is markup, ``title`` text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def header(kicker: str, title: str, lead: str, meta: str) -> str:
    """The head of the page."""
    return (
        f'<header>\n<p class="kicker">{escape(kicker)}</p>\n<h1>{escape(title)}</h1>\n'
        f'<p class="lead">{escape(lead)}</p>\n<p class="meta">{escape(meta)}</p>\n</header>'
    )


def card(label: str, value: str, unit: str = "", note: str = "", mood: str = "") -> str:
    """A number to look at first; ``mood`` is "good", "bad" or nothing."""
    small = f"<small>{escape(unit)}</small>" if unit else ""
    colour = f" {mood}" if mood in ("good", "bad") else ""
    return (
        f'<div class="card"><div class="label">{escape(label)}</div><div class="value{colour}">{escape(value)}{small}</div>'
        f'<div class="note">{escape(note)}</div></div>'
    )


def cards(items: Iterable[str]) -> str:
    """Cards in a row."""
    return '<div class="cards">\n' + "\n".join(items) + "\n</div>"


def section(title: str, intro: str, *parts: str) -> str:
    """A titled part of the page; ``parts`` are markup."""
    first = f"<p>{escape(intro)}</p>\n" if intro else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{first}" + "\n".join(parts) + "\n</section>"


def picture(content: bytes, alt: str, width: float) -> str:
    """A PNG or GIF image inside the page, ``width`` in CSS pixels at most."""
    data, kind = base64.b64encode(content).decode("ascii"), "gif" if content.startswith(b"GIF8") else "png"
    return f'<figure><img alt="{escape(alt)}" width="{round(width)}" src="data:image/{kind};base64,{data}"></figure>'


def column(title: str, text: str, content: str) -> str:
    """A titled half of ``pair``."""
    return f"<div><h3>{escape(title)}</h3><p>{escape(text)}</p>{content}</div>"


def pair(first: str, second: str) -> str:
    """Two columns, the first wider."""
    return f'<div class="pair">\n{first}\n{second}\n</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns: a name, two numbers, and words."""
    kinds = ("", "number", "number", "says")

    def cells(row: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f'<{tag} class="{kind}">{escape(cell)}</{tag}>' for cell, kind in zip(row, kinds, strict=True)) + "</tr>"

    body = "\n".join(cells(row, "td") for row in rows)
    return f'<div class="wide"><table>\n<thead>{cells(head, "th")}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def code(text: str) -> str:
    """Text as it is."""
    return f"<pre>{escape(text.rstrip())}</pre>"


def yaml_code(text: str) -> str:
    """YAML with its keys coloured."""
    lines = [re.sub(r"^(\s*(?:- )*)([\w.-]+)(:)", r'\1<span class="key">\2</span>\3', escape(line)) for line in text.rstrip().splitlines()]
    return "<pre>" + "\n".join(lines) + "</pre>"


def footer(text: str) -> str:
    """The last line."""
    return f"<footer>{escape(text)}</footer>"
