"""The methods that round weights, one a file."""
