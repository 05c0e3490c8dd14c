"""Models to and from the formats of others: the verbs `export` and `import`."""
