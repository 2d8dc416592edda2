"""TGI's API, to the letter: docs/api.md says where ours differs."""
