"""All that knows the shipped model and its data: emoji, their styles, the demo, the suites."""
