"""What a run found, for people: tables, figures, one HTML page, Markdown, and a table for the terminal."""
