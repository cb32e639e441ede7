"""GPUs: what is known of them, what their errors mean, who gets which, and how one comes back."""
