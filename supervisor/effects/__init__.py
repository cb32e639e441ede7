"""Effects carry actions out and report what came of it. They decide nothing."""
