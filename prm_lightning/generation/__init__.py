"""Prompts to text: local models, servers, Claude."""
