"""Tables and pages as Markdown, LaTeX and HTML."""
