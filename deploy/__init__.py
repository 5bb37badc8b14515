"""What takes an artifact to a web page or to a phone: a page's server, a reduced build."""
