"""Settings of the static site that `make site` builds with Sphinx."""

project = html_title = "SMART-IQA workbook"
extensions = ["myst_nb"]
html_theme = "furo"
html_static_path, html_css_files = ["static"], ["site.css"]
root_doc = "README"
nb_execution_mode = "off"  # the notebooks were executed by `run`
myst_heading_anchors = 3
html_show_sphinx = html_copy_source = False
suppress_warnings = ["myst.xref_missing", "mystnb.unknown_mime_type"]  # links to code; widgets

CONTENTS = """
```{toctree}
:hidden:
:glob:
docs/study/README
docs/notebooks
docs/*
tests/reliability/README
notebooks/*
```
"""


def setup(app):
    """The README is the first page, and on GitHub needs no table of contents."""

    def with_contents(app, name, source):
        source[0] += CONTENTS * (name == root_doc)

    app.connect("source-read", with_contents)
