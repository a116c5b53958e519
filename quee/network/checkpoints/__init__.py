"""Reading weights files of others: one reader per layout."""
