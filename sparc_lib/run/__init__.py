"""What run_all.sh starts: executing notebooks, writing them back, tests, downloads."""
