//! The file broker: protocol, server process, client.
