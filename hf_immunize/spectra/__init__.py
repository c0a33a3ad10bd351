"""κ and what moves it: numbers of feature matrices."""
