"""docs/errors.md quotes what commands print: each quote is made again here, and compared.

On the page, a quote stands behind a comment with the name of its situation.  `python -m tests.errors_doc` writes all of
them anew, `python -m tests.errors_doc NAME...` prints some.
"""
