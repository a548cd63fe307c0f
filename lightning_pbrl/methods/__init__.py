"""One LightningModule per method, one file per method."""
