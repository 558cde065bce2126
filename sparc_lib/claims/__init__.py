"""The paper's claims and published numbers, and the rules that judge them."""
