"""What stores of backups really keep of their promises (`slipway backup doctor`)."""
