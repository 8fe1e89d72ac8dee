//! What one committed command does, the same on every member.
