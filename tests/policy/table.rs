//! Every kind of certificate under every policy.
