"""Who answers a question: one file per teacher."""
