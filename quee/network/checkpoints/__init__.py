"""Reading weights files of other projects: one reader per layout."""
