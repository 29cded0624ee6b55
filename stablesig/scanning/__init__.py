"""Bulk scans: very many images against very many keys, on one machine or on a cluster."""
