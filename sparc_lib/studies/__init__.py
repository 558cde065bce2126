"""One function a table: every measurement of the paper and its controls, built once and cached."""
