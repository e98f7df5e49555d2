"""Runs the notebooks and writes the report."""

import sys

# jsonschema, which nbformat needs, tries to import it to check international addresses, of which no notebook has any.
# It builds a parser when it is imported: two seconds of every run.
sys.modules.setdefault("rfc3987_syntax", None)
