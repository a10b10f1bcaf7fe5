"""The report: terminal, JSON, JUnit, HTML."""
