"""The verifiable reward: where the answer is in a text, and whether it is right. It imports no other room."""
