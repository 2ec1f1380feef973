"""Steps down U: Newton's where it is smooth, BFGS across its kinks, and steps along these."""
