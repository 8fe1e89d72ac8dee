//! Agrees on one order of commands.
