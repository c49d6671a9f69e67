"""Reports as one self-contained HTML file.

A result builds a :class:`~qat.report.html.page.WebPage` of sections, tables, plots (:mod:`qat.report.html.plots`) and pictures,
and :func:`~qat.report.html.render.write_page` writes it, with a PNG of each plot beside it.
"""
