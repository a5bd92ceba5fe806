"""TDPlannerActor: history, receding horizon and the plan inside a TensorDict pipeline."""
