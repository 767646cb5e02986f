"""Voice activity, speech to text and text to speech behind small interfaces; models load on use only."""
