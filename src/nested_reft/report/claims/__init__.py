"""The paper's claims and their verdicts."""
