"""Tables as Markdown, LaTeX, CSV, JSON and terminal text."""
