"""How far a study is, read off its store alone: nothing is written, and neither torch nor Ray is loaded."""
