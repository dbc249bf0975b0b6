-- Health of a ServiceExpositionPolicy: the condition Ready decides, Stalled says that somebody has to act.
local health = { status = "Progressing", message = "no agent of Wharf has looked at it yet" }
local status = obj.status
if status == nil or status.conditions == nil then
  return health
end
local generation = obj.metadata.generation
if status.observedGeneration ~= nil and generation ~= nil and status.observedGeneration ~= generation then
  health.message = "no agent of Wharf has looked at the last change yet"
  return health
end
local ready, stalled
for _, condition in ipairs(status.conditions) do
  if condition.type == "Ready" then
    ready = condition
  elseif condition.type == "Stalled" and condition.status == "True" then
    stalled = condition
  end
end
if stalled ~= nil then
  return { status = "Degraded", message = stalled.message }
end
if ready ~= nil then
  health.message = ready.message
  if ready.status == "True" then
    health.status = "Healthy"
  end
end
return health
