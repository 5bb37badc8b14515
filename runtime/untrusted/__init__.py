"""The one way in for data that others wrote: bounded files, bounded JSON, typed fields."""
