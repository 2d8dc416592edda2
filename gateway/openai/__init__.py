"""OpenAI's API over the same jobs: chat, completions, models."""
