"""The carriers of protocols: credentials, endpoint, client and quirks of each provider."""
