"""Reports: a verdict as HTML, JSON, JUnit XML, Markdown and tables, from its content alone."""
