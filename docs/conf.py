# SPDX-License-Identifier: GPL-2.0-or-later
"""How Sphinx makes HTML and man pages of the Markdown in this directory: `make docs`.

Nothing but myst-parser is needed, of the versions that Debian 12 has or later, and no network.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import TextLexer

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from nlmfo import __version__  # noqa: E402  (needs the line before it)

needs_sphinx = "5.3"
project = "nlmfo"
author = "The nlmfo developers"
release = version = __version__

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["build"]
#: Blocks without a language are commands and what they print.
highlight_language = "none"
#: A dash, a quote and three dots stay what they are: people copy commands.
smartquotes = False

html_theme = "alabaster"
html_theme_options = {"description": "NFSv3 lock failover for Linux", "fixed_sidebar": True, "page_width": "62em"}
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}
html_copy_source = False
html_show_sourcelink = False

man_pages = [
    ("man/nlmfo.8", "nlmfo", "moves NFS services between nodes without losing a lock", author, 8),
    ("man/nlmfo.toml.5", "nlmfo.toml", "what nlmfo serves, and how", author, 5),
    ("man/nlmfo-callout.8", "nlmfo-callout", "puts NFS clients on record for rpc.statd", author, 8),
]


def setup(app: Any) -> None:
    # Ours name the machine before each command, which Pygments takes for answers.
    app.add_lexer("console", TextLexer)
    app.connect("doctree-resolved", _without_links)


def _without_links(app: Any, doctree: Any, _name: str) -> None:
    """There is nothing to click on in a man page: a link to another page becomes its name, in italics."""
    if app.builder.format == "man":
        for link in [each for each in doctree.findall(nodes.reference) if "://" not in each.get("refuri", "")]:
            link.replace_self(nodes.emphasis("", "", *link.children))
