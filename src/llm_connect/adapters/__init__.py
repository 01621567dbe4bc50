"""Who carries a protocol: credentials, endpoint, client and quirks of each provider."""
