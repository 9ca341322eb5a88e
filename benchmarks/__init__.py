"""Side-by-side runs against peers; every result file carries its provenance."""
