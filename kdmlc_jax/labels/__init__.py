"""What is known of labels, as functions of arrays that need no network: tables, transition matrices, purification."""
