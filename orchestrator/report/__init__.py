"""What a run has shown: one JSON file for programs, one self-contained HTML file for people."""
