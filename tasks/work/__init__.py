"""Infrastructure of stages and verbs: locks, lifelines, the journal."""
