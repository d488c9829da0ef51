"""`farebox proxy`: a local forward proxy that pays, so that agent code holds no wallet and can't raise its limits."""
