//! MQTT source and sink.
